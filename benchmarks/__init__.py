"""What Prefloop is for, measured: each module runs the real app and ends with one line of JSON."""
