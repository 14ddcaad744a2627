"""What people look at: the console's static files, and Grafana boards as typed Python with built JSON."""
