"""The report: tracked runs -> one tidy DataFrame -> results and findings -> one page.

selection   which runs of the store a report is about
frame       those runs as a tidy DataFrame, one row per run
results     test figures, as means over seeds
names       what evaluations are called, and their order
deviations  where the runs differ from the published protocol
findings    differences, verdicts, speed-ups and costs of the results
cost        what the pretraining behind a result cost
answer      the first screen: the answer for each dataset
tables      strategies by dataset, and strategies against each other
panels      fewer augmentations, fewer images, chains of datasets, costs
section     everything on one dataset, with `sweeps` and `samples`
provenance  every run, for whoever checks or repeats it
page        all of it as one HTML file
formats     the same findings as Markdown, CSV, JSON and LaTeX
"""
