"""Say in one sentence what went wrong, where, and what to do."""

import errno

ADVICE = {
    errno.ENOSPC: "free some space, for example with `make prune`, and run again",
    errno.EDQUOT: "free some of this user's space, for example with `make prune`, and run again",
    errno.EFBIG: "raise the limit on the size of files (`ulimit -f`)",
    errno.EACCES: "allow this user to read and write there",
    errno.EPERM: "allow this user to read and write there",
    errno.EROFS: "make it possible to write there, or work in a copy elsewhere",
    errno.EISDIR: "move the folder away, since a file is needed there",
    errno.ENOTDIR: "move the file away, since a folder is needed there",
    errno.ELOOP: "remove the symbolic link, since a file or folder is needed there",
    errno.EEXIST: "move what is there away",
    errno.ENOENT: "check the name",
    errno.EMFILE: "raise the limit on open files (`ulimit -n`)",
    errno.ENFILE: "close other programs: the system has no more open files to give",
    errno.EIO: "the disk failed; copy what you need from it",
    errno.EAGAIN: "raise the limit on processes and threads (`ulimit -u`), or close other programs",
}


def describe(error: BaseException) -> str:
    """Return the text of an error; for one of the operating system, with what to do about it."""
    if isinstance(error, OSError) and error.errno in ADVICE:
        where = f"{error.filename}: " if error.filename else ""
        what = str(error.strerror)
        advice = ADVICE[error.errno]
        if "temporary directory" in what:  # of `tempfile`, which names no file
            advice = "set TMPDIR to a folder with free space"
        return f"{where}{what[:1].lower()}{what[1:]}; {advice}"
    if is_about_threads(error):
        return f"no thread can be started; {ADVICE[errno.EAGAIN]}"
    if isinstance(error, MemoryError):
        return str(error) or "out of memory"
    return str(error) or type(error).__name__


def is_about_threads(error: BaseException) -> bool:
    """Return whether the system has refused to start a thread."""
    return isinstance(error, RuntimeError) and "can't start new thread" in str(error)
