"""`semseg` and `python` from a process that has imported everything: a command is a fork of it and begins at once.

Importing torch and the rest takes 5 s of processor time, and the documents hold some eighty commands. A fork has a
working folder, environment, streams and exit code of its own, and ends like any process. Other tests show that the
installed `semseg` starts.
"""

import contextlib
import os
import runpy
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

CLIENT = """\
#!{python} -SE
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as client:
    client.connect({address})
    order = json.dumps([{name}, sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(client, [len(order).to_bytes(4, "big")], [0, 1, 2])
    client.sendall(order)
    sys.exit(int(client.recv(16) or b"70"))
"""
IMPORTS = ("semseg_app.cli.main", "semseg_app.data.check", "semseg_app.training.loop", "onnxscript")
"""Not ONNX Runtime, which does not work in a fork of a process that has imported it."""


@contextlib.contextmanager
def forked_commands(environment: dict[str, str]) -> Iterator[Path]:
    """A folder for the head of PATH with `semseg` and `python`, which fork while the context lasts.

    Args:
        environment: of the process that imports; libraries read some of it then, such as HF_ENDPOINT.
    """
    with tempfile.TemporaryDirectory(prefix="semseg-forks-") as folder:
        address = f"{folder}/socket"
        for name in ("semseg", "python"):
            client = Path(folder, name)
            client.write_text(CLIENT.format(python=sys.executable, address=repr(address), name=repr(name)))
            client.chmod(0o755)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(address)
            listener.listen()
            command = [sys.executable, __file__, str(listener.fileno())]
            with subprocess.Popen(command, env=environment, pass_fds=[listener.fileno()]) as parent:
                try:
                    yield Path(folder)
                finally:
                    parent.kill()


def _serve(listener: socket.socket) -> None:
    import importlib

    for module in IMPORTS:
        importlib.import_module(module)
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            _answer(connection)
        connection.close()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass


def _answer(connection: socket.socket) -> None:
    """Run one command in a fork, and its own child: whose end is waited for as a shell would."""
    import json

    length, streams, _, _ = socket.recv_fds(connection, 4, 3)
    order = b""
    while len(order) < int.from_bytes(length, "big"):
        order += connection.recv(65536)
    name, arguments, folder, environment = json.loads(order)
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        connection.sendall(str(os.waitstatus_to_exitcode(status) % 256).encode())
        os._exit(0)
    connection.close()
    for target, stream in enumerate(streams):
        os.dup2(stream, target)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [name, *arguments]
    if name == "semseg":
        from semseg_app.cli.main import main

        main()
    elif arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        exec(arguments[1], {"__name__": "__main__"})
    else:
        sys.argv = arguments
        sys.path[0] = str(Path(arguments[0]).parent)
        runpy.run_path(arguments[0], run_name="__main__")
    sys.exit(0)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
