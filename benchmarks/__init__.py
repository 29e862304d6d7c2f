"""What Prefloop is for, measured: each module here runs the real program and ends with one line of JSON."""
