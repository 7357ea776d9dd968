"""Studies: a grid of pretrainings and evaluations, as data, and doing what is missing of it.

definition  the grid, and the cells that it comes to
progress    which cells are done
cost        what the rest takes
conductor   doing it
export_runs what leaves for another machine
import_runs what arrives from one
builtin/    the studies that come with the program
"""
