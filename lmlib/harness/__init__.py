"""EleutherAI's lm-evaluation-harness on an exported model, or on a server.

    tasks/       tasks of the project's own, which need no network
    stories.py   their questions, made from the validation text
    run.py       models for the harness, tasks by name, scores

Nothing here is imported unless someone asks for it: `lm_eval` is in the extra `eval`.
"""

# what lmlib/harness/tasks defines; `stories` is both of the others
LOCAL_TASKS = ("stories", "stories_ending", "stories_name")

__all__ = ["LOCAL_TASKS"]
