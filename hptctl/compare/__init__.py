"""Is one better than another?

arms         which evaluations are compared: of the same images, from the predictions that runs kept
comparison   what `hptctl compare` says: every pair of arms, with verdicts and tests
differences  what the report says: any two of its results, with intervals that are kept between reports
"""
