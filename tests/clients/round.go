// The Go client: the round of a user.
package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

var bad = 0

func same(what string, expected, got interface{}) {
	if reflect.DeepEqual(expected, got) {
		fmt.Println("ok - go:", what)
	} else {
		bad = 1
		fmt.Printf("not ok - go: %s: expected %#v, got %#v\n", what, expected, got)
	}
}

func must(err error) {
	if err != nil {
		fmt.Println("not ok - go: unexpected error:", err)
		os.Exit(1)
	}
}

func channel(c *amqp.Connection) *amqp.Channel {
	ch, err := c.Channel()
	must(err)
	return ch
}

func refused(what string, code int, text string, err error) {
	if e, ok := err.(*amqp.Error); ok {
		same(what, fmt.Sprint(code, " ", text), fmt.Sprint(e.Code, " ", e.Reason))
	} else {
		same(what, text, err)
	}
}

func main() {
	url := "amqp://guest:guest@127.0.0.1:" + os.Getenv("AMQP_PORT") + "/"
	// Bounds a wait that would never end.
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	connection, err := amqp.Dial(url)
	must(err)
	ch := channel(connection)
	const name = "clients.go"
	_, err = ch.QueueDeclare(name, true, false, false, false, amqp.Table{"x-max-length": int32(1000)})
	must(err)
	must(ch.ExchangeDeclare("clients.go.x", "topic", true, false, false, false, nil))
	must(ch.QueueBind(name, "a.*", "clients.go.x", false, nil))

	must(ch.Confirm(false))
	returns := ch.NotifyReturn(make(chan amqp.Return, 1))
	now := time.Unix(1700000000, 0)
	headers := amqp.Table{"int32": int32(7), "int16": int16(-5), "byte": byte(200), "int64": int64(1) << 40, "text": "ü", "yes": true, "none": nil,
		"float32": float32(1.5), "float64": 2.25, "bytes": []byte{1, 2}, "decimal": amqp.Decimal{Scale: 2, Value: 314}, "time": now,
		"list": []interface{}{int32(1), "two"}, "nested": amqp.Table{"k": amqp.Table{"v": int32(1)}}}
	message := amqp.Publishing{Headers: headers, ContentType: "text/plain", DeliveryMode: 2, Priority: 3, CorrelationId: "c", ReplyTo: "r", Expiration: "60000",
		MessageId: "m", Timestamp: now, Type: "t", AppId: "a", Body: []byte("one")}
	publish := func(key string, mandatory bool, m amqp.Publishing) bool {
		confirm, err := ch.PublishWithDeferredConfirmWithContext(ctx, "clients.go.x", key, mandatory, false, m)
		must(err)
		return confirm.Wait()
	}
	same("a confirm", true, publish("a.b", false, message))
	same("a confirm of several frames", true, publish("a.c", false, amqp.Publishing{Body: make([]byte, 300000)}))
	same("a confirm of what nobody took", true, publish("none", true, amqp.Publishing{Body: []byte("lost")}))
	r := <-returns
	same("a return", "312 NO_ROUTE none", fmt.Sprint(r.ReplyCode, " ", r.ReplyText, " ", r.RoutingKey))

	got, ok, err := ch.Get(name, false)
	must(err)
	same("get", "one true false 1", fmt.Sprint(string(got.Body), " ", ok, " ", got.Redelivered, " ", got.MessageCount))
	same("headers of every type", headers, got.Headers)
	same("properties", message, amqp.Publishing{Headers: headers, ContentType: got.ContentType, DeliveryMode: got.DeliveryMode, Priority: got.Priority,
		CorrelationId: got.CorrelationId, ReplyTo: got.ReplyTo, Expiration: got.Expiration, MessageId: got.MessageId, Timestamp: got.Timestamp, Type: got.Type,
		AppId: got.AppId, Body: got.Body})
	must(got.Nack(false, true))

	must(ch.Qos(1, 0, false))
	deliveries, err := ch.Consume(name, "consumer", false, false, false, false, nil)
	must(err)
	var seen []string
	for len(seen) < 3 {
		d := <-deliveries
		seen = append(seen, fmt.Sprint(len(d.Body), " ", d.Redelivered))
		if len(seen) == 1 {
			must(d.Reject(true))
		} else {
			must(d.Ack(false))
		}
	}
	same("consume with prefetch 1, reject, ack", []string{"3 true", "3 true", "300000 false"}, seen)
	must(ch.Cancel("consumer", false))
	_, ok, err = ch.Get(name, true)
	must(err)
	same("empty get", false, ok)

	tx := channel(connection)
	must(tx.Tx())
	must(tx.PublishWithContext(ctx, "", name, false, false, amqp.Publishing{Body: []byte("undone")}))
	must(tx.TxRollback())
	must(tx.PublishWithContext(ctx, "", name, false, false, amqp.Publishing{Body: []byte("done"), DeliveryMode: 2}))
	must(tx.TxCommit())
	q, err := ch.QueueInspect(name)
	must(err)
	same("rollback leaves nothing, commit one", 1, q.Messages)

	_, err = channel(connection).QueueInspect("clients.none")
	refused("404 of a missing queue", 404, "NOT_FOUND - no queue 'clients.none' in vhost '/'", err)
	_, err = channel(connection).QueueDeclare(name, true, false, false, false, nil)
	refused("406 of an inequivalent declare", 406,
		"PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue 'clients.go' in vhost '/': received none but current is the value '1000' of type 'signedint'", err)
	must(channel(connection).ExchangeDeclare("clients.go.internal", "fanout", false, true, true, false, nil))
	closing := channel(connection)
	closed := closing.NotifyClose(make(chan *amqp.Error, 1))
	must(closing.PublishWithContext(ctx, "clients.go.internal", "", false, false, amqp.Publishing{}))
	e := <-closed
	refused("403 of a publish to an internal exchange", 403,
		"ACCESS_REFUSED - cannot publish to internal exchange 'clients.go.internal' in vhost '/'", e)
	must(ch.ExchangeDelete("clients.go.internal", false, false))
	_, err = amqp.Dial(strings.Replace(url, "guest@", "wrong@", 1))
	refused("a wrong password", 403, "username or password not allowed", err)
	_, err = amqp.Dial(url + "none")
	refused("an unknown vhost", 403, "no access to this vhost", err)

	watched := channel(connection)
	gone, err := watched.QueueDeclare("", false, false, true, false, nil)
	must(err)
	cancelled := watched.NotifyCancel(make(chan string, 1))
	_, err = watched.Consume(gone.Name, "watcher", true, false, false, false, nil)
	must(err)
	_, err = ch.QueueDelete(gone.Name, false, false, false)
	must(err)
	same("a deleted queue cancels its consumer", "watcher", <-cancelled)

	ended := connection.NotifyClose(make(chan *amqp.Error, 1))
	restart := exec.Command("sh", "-c", os.Getenv("RESTART"))
	restart.Stderr = os.Stderr
	must(restart.Run())
	refused("a restart ends the connection", 320, "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'", <-ended)
	connection, err = amqp.Dial(url)
	must(err)
	ch = channel(connection)
	got, _, err = ch.Get(name, true)
	must(err)
	same("the committed message is there after a restart", "done", string(got.Body))
	_, err = ch.QueueDelete(name, false, false, false)
	must(err)
	must(ch.ExchangeDelete("clients.go.x", false, false))
	must(connection.Close())
	os.Exit(bad)
}
