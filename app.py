"""The program: settings → the launcher where there is a token to hold, else a socket → the web process."""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence
from dataclasses import replace

from annotation.environment import keep_private
from annotation.records import UserError
from annotation.translation import _, of_server
from annotation.ui.invisible import visible
from annotation.ui.terminal import outlast_readers
from annotation.web.settings import Settings, read_settings
from rlhf.hub import token_launcher


def listen(settings: Settings) -> socket.socket:
    """The server's socket, bound before anything slow begins. Raises UserError if the address can't be had."""
    try:
        family, kind, protocol, _name, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen()  # from here on a browser that follows the printed link waits instead of being refused
        except BaseException:
            listener.close()
            raise
    except (OSError, OverflowError) as error:
        raise UserError(
            _(
                "Can't listen on {host} port {port} ({error}). Stop what runs there, or choose another with --port."
            ).format(host=settings.host, port=settings.port, error=error)
        ) from error
    return listener


def main(arguments: Sequence[str] | None = None) -> int:
    """Start the program and serve until it is told to stop."""
    keep_private()
    of_server()  # ends here where that is a wrong one
    try:
        settings = read_settings(arguments)
        if arguments is None:
            token_launcher.launch_where_needed(settings.data_dir, settings.model, sys.argv[1:])
        with listen(settings) as listener:
            # Not at the top: a process that becomes the launcher needs nothing of it, and nobody else waits for that.
            from rlhf import web_server

            settings = replace(settings, port=listener.getsockname()[1])
            web_server.serve(web_server.build_app(settings), settings, listener)
    except UserError as error:
        print(visible(str(error)), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(_("Prefloop has stopped."))
    return 0


if __name__ == "__main__":
    outlast_readers()
    sys.exit(main())
