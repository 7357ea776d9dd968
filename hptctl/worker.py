"""`accelerate launch -m hptctl.worker RUN-FOLDER`: the name by which any launcher starts the processes of a run."""

from hptctl.runs.worker import main

if __name__ == "__main__":
    main()
