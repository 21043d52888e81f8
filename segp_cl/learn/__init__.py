"""Learns a task: from one state to the next. Begin with `learner.learn_task`."""
