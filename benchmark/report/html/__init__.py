"""report.html: the leaderboard as one file that opens from disk and asks nobody for anything."""
