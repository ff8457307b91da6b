"""The page at an address of this machine, and of no other."""

from __future__ import annotations

import importlib.util
import os
import socket
import tempfile
import webbrowser

from sparsight.app.desk import Desk
from sparsight.errors import InputError

__all__ = ["HOST", "listen", "require_gradio", "serve"]

HOST = "127.0.0.1"

_QUIET = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}
_LARGEST_FILE = "100mb"
# The browser itself refuses whatever a page or a label would fetch from elsewhere.
_POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; base-uri 'self'; form-action 'self'"
)


def require_gradio() -> None:
    """Check that Gradio is there.

    Raises
    ------
    InputError
        If it is not installed.
    """
    if importlib.util.find_spec("gradio") is None:
        raise InputError("the app needs Gradio: pip install 'sparsight[app]'")


def listen(port: int) -> socket.socket:
    """Take a port of this machine's loopback address.

    Raises
    ------
    InputError
        If the port is taken or not allowed.

    Examples
    --------
    >>> with listen(0) as listener:
    ...     listener.getsockname()[0]
    '127.0.0.1'
    """
    listener = socket.socket()
    try:
        if os.name != "nt":  # there it would share a port that is in use
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        listener.listen()
    except OSError as error:
        listener.close()
        reason = (error.strerror or str(error)).lower()
        raise InputError(
            f"port {port} cannot be used ({reason}): choose another with --port"
        ) from error
    return listener


def serve(desk: Desk, listener: socket.socket, *, browser: bool = False) -> None:
    """Serve the page until Ctrl-C; the images that were dropped are deleted then.

    Parameters
    ----------
    desk
        Who answers.
    listener
        Of :func:`listen`.
    browser
        Whether to open the page in the user's browser.

    Raises
    ------
    InputError
        If Gradio is not installed.
    KeyboardInterrupt
        On Ctrl-C.
    """
    require_gradio()
    with tempfile.TemporaryDirectory(prefix="sparsight-app-") as folder:
        os.environ.update(_QUIET, GRADIO_TEMP_DIR=folder)  # Gradio reads nothing else
        _run(desk, listener, browser)


def _run(desk: Desk, listener: socket.socket, browser: bool) -> None:
    import gradio
    import uvicorn
    from fastapi import FastAPI
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from sparsight.app.page import build, look

    host, port = listener.getsockname()[:2]
    site = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    site.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    gradio.mount_gradio_app(
        site, build(desk), "/", host, port,
        footer_links=[], run_history=False, show_error=False, max_file_size=_LARGEST_FILE,
        ssr_mode=False, pwa=False, mcp_server=False, enable_monitoring=False, **look(),
    )  # fmt: skip
    config = uvicorn.Config(
        site, log_level="critical", timeout_graceful_shutdown=1,
        headers=[("Content-Security-Policy", _POLICY), ("Referrer-Policy", "no-referrer")],
    )  # fmt: skip
    if browser:
        webbrowser.open(f"http://{host}:{port}/")
    uvicorn.Server(config).run(sockets=[listener])
