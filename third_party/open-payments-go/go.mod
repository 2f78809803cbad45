module github.com/interledger/open-payments-go

go 1.26
