"""Dead letters that one can look at, mend and put back: what is there, what was done about it, and doing it."""
