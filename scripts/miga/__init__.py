"""What scripts/miga_networks.py and scripts/miga_results.py share: digits, networks, measurements, tables."""
