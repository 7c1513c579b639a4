"""Scenarios, a file per area. A scenario is a public function that takes a `client.Scenario`."""
