"""What server and worker say to each other: settings, contracts, jobs, the roster, rollouts, the spool."""
