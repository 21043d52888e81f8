"""What serving costs, beside the bare model and beside other servers; and what changing versions costs."""
