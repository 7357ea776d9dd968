"""Is one better than another?

arms        evaluations made comparable: which runs, on the same images
intervals   the differences between them, with intervals
"""
