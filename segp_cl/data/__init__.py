"""From untrusted bytes to pixels, and labelled images that stream from files."""
