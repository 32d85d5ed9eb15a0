"""What home recordings are: a corpus's profile, its transcripts and its videos."""
