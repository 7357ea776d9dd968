"""`accelerate launch -m hptctl.worker RUN-FOLDER`: the name by which any launcher starts the processes of a run."""

from hpt import cores

if __name__ == "__main__":
    cores.yielding()  # whoever has started it
    from hptctl.runs.worker import main

    main()
