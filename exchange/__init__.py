"""What server and worker share: settings, contracts, jobs, the roster of servers, rollouts and the spool.

Begin with `contracts`.
"""
