"""SeGP-CL, the method: pure PyTorch, no web, no queue, no store, no environment. Begin with `learner.learn_task`."""
