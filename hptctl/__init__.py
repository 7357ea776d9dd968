"""hptctl: adapt a self-supervised vision model to your own images."""

__version__: str


def __getattr__(name: str) -> str:
    """The version, which takes a look through all that is installed, when it is asked for."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import version

    return version("hptctl")
