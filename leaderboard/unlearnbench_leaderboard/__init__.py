"""The leaderboard: tables and one page, built from result files and from nothing else.

Read in the order of a build: `entries` (files on disk), `rows` (seeds pooled), `ranking` (who is
ranked, and where), `board` (the tables of a leaderboard), then what is written of them: `markdown`,
`terminal`, `data_files` and the page (`plot`, `page`). `build` is the whole as one pure function.
"""
