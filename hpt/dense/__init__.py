"""Backbones under boxes and masks: detection and segmentation, their annotations, augmentation, networks and figures.

targets          what is annotated on an image: boxes with classes, or a class for each pixel
dataset          images of a dataset, cached as all others, with their targets
find             what is annotated in a folder, a zip file, a table or a row of the catalogue, and in which format
coco voc yolo    boxes by format; box_table: a line an object; annotated_boxes: what all of them give
fit              boxes as annotated to boxes within an image: turned, clipped, dropped
class_list       what the numbers or colours of masks mean
"""
