"""How the labels stand: agreement, biases, reliability and strengths, and the words and charts that say so."""
