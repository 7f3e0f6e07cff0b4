"""What both clients share: values, requests and answers, and every decision that can be made without the network."""
