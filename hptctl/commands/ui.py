"""`hptctl ui`"""

from __future__ import annotations

from typing import Annotated

import typer


def ui(
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port on 127.0.0.1.")] = 5000,
) -> None:
    """Open MLflow's UI on this folder's runs, at 127.0.0.1, until Ctrl-C.

    Example:

        hptctl ui --port 5001
    """
    import os
    import socket
    import subprocess
    import sys

    from hpt.errors import ConfigError, HptError
    from hptctl import console, tracking
    from hptctl.runs.children import safe_path, terminate_tree
    from hptctl.runs.signals import held_back

    store = tracking.uri()
    if store.startswith(("http://", "https://")):
        console.say(f"the runs are tracked by a server: open {store}")
        return
    tracking.check_store()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigError(f"port {port} cannot be used: {error.strerror}", "choose another --port") from None
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--workers", "1"),
    ]
    # Without these MLflow starts a job runner and four workers: 22 s and 1.6 GB instead of 5 s and 350 MB.
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    where = {"MLFLOW_BACKEND_STORE_URI": store}  # with its password, which everybody could read among the arguments
    console.say(f"MLflow's UI on {store}: http://127.0.0.1:{port}  (Ctrl-C ends it)")
    with held_back() as stop:
        server = subprocess.Popen(command, env={**os.environ, **safe_path(), **quiet, **where}, start_new_session=True)
        while True:
            try:
                code = server.wait(timeout=0.2)
                break
            except subprocess.TimeoutExpired:
                if stop():
                    terminate_tree(server.pid)
                    code = server.wait(timeout=20)
                    break
    if not stop() and code:
        raise HptError(f"MLflow's server ended with exit code {code}", "see its lines above")
