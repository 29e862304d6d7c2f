"""The Train page: a form for each kind of training, what a run would learn from and cost, renting hardware for it."""
