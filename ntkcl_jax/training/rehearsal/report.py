"""A rehearsal as text."""

from ntkcl_jax.terminal.progress import seconds
from ntkcl_jax.training.rehearsal.play import Rehearsal


def gib(size: int | None) -> str:
    """Write a number of bytes.

    Example:
        >>> gib(3 * 2**29), gib(2**21), gib(None)
        ('1.5 GiB', '2.0 MiB', 'not told')
    """
    if size is None:
        return "not told"
    return f"{size / 2**30:.1f} GiB" if size >= 2**29 else f"{size / 2**20:.1f} MiB"


def programs(found: Rehearsal) -> str:
    """Name the programs that took longest to compile, how often each was, and their time."""
    longest = list(found.compile_s.items())[:4]
    return "; ".join(f"{name} {found.compilations[name]} x, {seconds(taken)}" for name, taken in longest)


def report(found: Rehearsal) -> str:
    """Write a rehearsal for people, a table of one fact a line."""
    size, stream, memory = found.size, found.stream, found.memory
    every = len(stream.task_sizes)
    rows = [
        ("rehearsed", f"{found.preset} on {found.device}: {size.tasks} of {every} tasks, "
         f"{size.steps} steps in the largest, {seconds(found.rehearsed_s)}"),
        ("whole run", f"{stream.classes} classes in {every} tasks; {stream.train:,} training and "
         f"{stream.test:,} test images ({found.image_counts})"),
        ("memory", f"process at most {gib(memory['process_peak'])}; device at most {gib(memory['device_peak'])} of "
         f"{gib(memory['device_limit'])}; free before {gib(memory['free'])}"),
        ("", f"training step as planned by XLA {gib(memory['step_planned'])}, as estimated {gib(memory['estimated'])}"),
        ("compiled", f"{found.programs} programs, the longest: {programs(found)}"),
        ("", f"compiled again between tasks: {', '.join(found.recompiled)}" if found.recompiled else
         f"no step compiled again between tasks ({found.later_programs} small programs were)"),
        *(("speed" if i == 0 else "", f"{name:<12} {rate:,.1f} images/s")
          for i, (name, rate) in enumerate(found.rates.items())),
    ]  # fmt: skip
    if found.tflops is not None:
        rows.append(("", f"the training step sustains {found.tflops:.2f} TFLOP/s"))
    resumed = "the same results" if found.resumed else "OTHER RESULTS"
    rows.append(("resumed", f"the last task, from its predecessor's checkpoint: {resumed}"))
    rows.append(("disk", f"{gib(found.disk)} of checkpoints for the whole run"))
    rows += [("projected" if i == 0 else "", f"{method:<12} {seconds(taken)} a seed")
             for i, (method, taken) in enumerate(found.seed_s.items())]  # fmt: skip
    rows.append(("", f"{'whole run':<12} {seconds(found.run_s)}, without reading and decoding image files"))
    if size.tasks < every:
        rows.append(("left out", f"tasks {size.tasks + 1} to {every}; --tasks {every} rehearses them too"))
    return "\n".join(f"{name:<10} {text}" for name, text in rows) + "\n"
