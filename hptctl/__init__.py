"""hptctl: adapt a self-supervised vision model to your own images."""

from importlib.metadata import version

__version__ = version("hptctl")
