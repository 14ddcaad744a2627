"""Grafana boards as typed Python, one file a board; `python -m dashboards.boards` builds them into dashboards/grafana.

Only this needs the extra `boards`: what is installed, exported and pushed is the JSON.
"""
