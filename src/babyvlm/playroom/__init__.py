"""Playroom: a small drawn world that stands in for SAYCam, the web corpus and the labelled frames."""
