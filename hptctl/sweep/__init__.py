"""Sweeps: a space of configurations, searched by several processes and machines through Optuna, which is used in this
package and nowhere else.

    space       what is varied, as data
    plan        what a sweep is, in full
    folder      a sweep's run folder
    storage     where Optuna keeps the trials: a journal file, or a SQL database
    samplers    how points are chosen, what is stopped on the way
    queue       the trials as a queue of claims
    worker      a process that does trials
    workers     such processes, started and seen off by a command
    board       how a sweep goes, as its command shows it
    winner      the trial that val chose, and its test
    plots       the finished sweep, drawn
    conductor   the command: all of these

A sweep is a run of its own (the parent in MLflow), its trials are runs with folders of their own. Val chooses; test is
computed once, for the winner.
"""
