"""Runs as jobs of a cluster, through submitit: sent, looked after in the queue, taken up again when they are lost.

settings    what is asked of the cluster for each job: a study's `[cluster]`, `--cluster`
schedulers  who runs jobs: Slurm, or this machine to try the settings out
jobs        the jobs of a folder, written down there, so that a command that was ended finds them again
follow      one run as a job, waited for
job         what a job executes on its node

A job is `hptctl ... --resume RUN` for a run whose folder is made already, so that a job that starts again goes on with
the run. Nothing here loads PyTorch: whoever sends jobs may have no GPU, and little to compute with.
"""
