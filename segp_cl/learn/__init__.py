"""One task in, the next state out. Begin with `learner.learn_task`."""
