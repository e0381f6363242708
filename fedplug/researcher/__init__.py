"""The researcher's side: experiments, their rounds, and what they leave on disk."""
