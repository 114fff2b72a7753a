"""What scripts/purification_results.py is made of: the bench, one module for each task, tables."""
