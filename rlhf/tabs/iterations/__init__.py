"""The Iterations page: where the loop stands, how candidates did, the gate's rule, and an admin's decisions."""
