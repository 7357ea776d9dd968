"""Backbones under boxes and masks: detection and segmentation, their annotations, augmentation, networks and figures.

targets       what is annotated on an image: boxes with classes, or a class for each pixel
dataset       images of a dataset, cached as all others, with their targets
"""
