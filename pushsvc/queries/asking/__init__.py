"""What is asked: statements, and how answers are made of their rows. Knows nothing of how it runs."""
