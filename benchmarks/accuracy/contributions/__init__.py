"""Cross-modal contributions between the tasks of a data set, held against the forgetting that followed."""
