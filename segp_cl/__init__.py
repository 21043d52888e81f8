"""SeGP-CL, the method, in pure PyTorch: no web, queue, store or environment. Begin with `learn.learner.learn_task`."""
