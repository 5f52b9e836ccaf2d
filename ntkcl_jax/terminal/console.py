"""What the commands `ntkcl` and `ntk-analysis` share: one line for a mistake, exit codes, signals."""

import io
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ntkcl_jax.devices.compiled_programs import keep_programs
from ntkcl_jax.devices.host_memory import keep_freed_memory
from ntkcl_jax.devices.memory import exhausted
from ntkcl_jax.errors import reason
from ntkcl_jax.terminal.progress import plain_text
from ntkcl_jax.terminal.stopping import Terminated, stop_when_told

USER_ERROR = 2
INTERRUPTED = 130  # 128 + the signal's number, as shells have it: SIGINT, SIGTERM
TERMINATED = 143


@dataclass(frozen=True)
class Program:
    """A command line made of commands.

    Attributes:
        name: what the user types.
        usage: the whole help text.
        commands: name to what is called with the words after it; it may return an exit code.
        resumable: commands that take `--resume` after an interruption.
        errors: exceptions whose message is for the user.
        smaller: what to do where memory ran out.
        among_others: tells whether the end of this process would wait for other processes of the same run.
    """

    name: str
    usage: str
    commands: Mapping[str, Callable[[list[str]], int | None]]
    resumable: tuple[str, ...]
    errors: tuple[type[Exception], ...]
    smaller: str = "lower --optimizer.batch-size or --compute.eval-batch-size, or add --compute.remat"
    among_others: Callable[[], bool] = lambda: False

    def run(self, argv: list[str]) -> int:
        """Run a command line and return its exit code.

        Args:
            argv: words after the program's name.

        Returns:
            The command's own (0 if it has none), or 2 after a mistake that the user can mend (one line on standard
            error), or 130 after Ctrl-C, or 143 after SIGTERM.
        """
        if not argv or argv[0] in ("-h", "--help"):
            print(self.usage, end="")
            return 0 if argv else USER_ERROR
        if argv[0] not in self.commands:
            return self.complain(f"unknown command {argv[0]!r}; choose from {', '.join(self.commands)}", USER_ERROR)
        try:
            return self.commands[argv[0]](argv[1:]) or 0
        except self.errors as error:
            return self.complain(str(error), USER_ERROR)
        except KeyboardInterrupt as error:
            ended = isinstance(error, Terminated)
            again = "; the same command with --resume goes on from the last checkpoint"
            hint = again if argv[0] in self.resumable else ""
            return self.complain(
                ("terminated" if ended else "interrupted") + hint, TERMINATED if ended else INTERRUPTED
            )
        except BrokenPipeError:
            # Python flushes standard output once more as it ends, and would complain of the same pipe
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except Exception as error:
            # Each kind of device and allocator has its own error for this
            if exhausted(error):
                return self.complain(f"the memory ran out ({reason(error)}); {self.smaller}", USER_ERROR)
            if isinstance(error, OSError) and error.filename is not None:  # a path that the user may mend
                return self.complain(f"can't use {error.filename} ({error.strerror}); check the path", USER_ERROR)
            raise

    def complain(self, message: str, code: int) -> int:
        """Write one line that can't steer the terminal, whatever names it carries; returns `code`."""
        print(f"{self.name}: {plain_text(' '.join(message.split()))}", file=sys.stderr)
        return code

    def main(self) -> None:
        """Run the process's own command line, and end the process."""
        stop_when_told()
        keep_freed_memory()
        keep_programs()
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # a dash that a terminal can't show is no reason to fail
        code = self.run(sys.argv[1:])
        if code and self.among_others():  # they may be dead, or wait for this one in the middle of a step
            # `os._exit` flushes nothing, and doesn't wait for JAX's shutdown, in which hosts wait for each other
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        sys.exit(code)
