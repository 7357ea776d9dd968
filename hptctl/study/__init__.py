"""Studies: a grid of pretrainings and evaluations, as data, and doing what is missing of it.

definition  the grid, and the cells that it comes to
progress    which cells are done
cost        what the rest takes
materials   what they rest on: images, weights, precision
here        looked at in this process
look        or by a job, before theirs
conductor   doing it
on_cluster  doing it by jobs
export_runs what leaves for another machine
import_runs what arrives from one
builtin/    the studies that come with the program
"""
