"""The silo's side: its data, its experts, its methods. Nothing here knows NVFlare or the aggregator."""
