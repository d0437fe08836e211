"""One trainer for every task: settings, the loop, exact resume, run folders."""
