"""Records -> leaderboard.md, leaderboard.csv and pictures."""
