"""`accelerate launch -m hptctl.worker RUN-FOLDER`: the name by which any launcher starts the processes of a run."""

from hpt import waiting
from hptctl import environment

if __name__ == "__main__":
    waiting.begin()  # whoever has started it
    environment.join_slurm_step()
    from hptctl.runs.worker import main

    main()
