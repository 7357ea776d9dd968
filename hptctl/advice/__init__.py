"""What an adaptation is worth on some images, and what to do next.

backbones  the base and what it was adapted to: found, read, refused where they do not fit
measured   the images without labels, and the curves over labels
words      what was measured, in sentences and tables
steps      what to do next, as commands with their reasons
page       all of it for a page
document   all of it for scripts
"""
