// SPDX-License-Identifier: Apache-2.0

// Command go-client calls one method by containerd's ttrpc client, which confidential-data-hub's Go
// relatives use.
//
//	go-client SOCKET SERVICE METHOD bytes|number COUNT string|base64 [FIELD...]
//
// The request has the FIELDs as its fields 1 to 3. COUNT calls go out at once on one connection. For
// each it prints a line: "OK" and field 1 of the answer, or the status.
package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/ttrpc"
	"github.com/gogo/protobuf/proto"
	"google.golang.org/grpc/status"
)

// strings3 and bytes1 are the shapes of all requests, bytes1 and number1 those of all answers.
type strings3 struct {
	First  string `protobuf:"bytes,1,opt,name=first,proto3"`
	Second string `protobuf:"bytes,2,opt,name=second,proto3"`
	Third  string `protobuf:"bytes,3,opt,name=third,proto3"`
}

type bytes1 struct {
	Value []byte `protobuf:"bytes,1,opt,name=value,proto3"`
}

type number1 struct {
	Value int64 `protobuf:"varint,1,opt,name=value,proto3"`
}

func (m *strings3) Reset()         { *m = strings3{} }
func (m *strings3) String() string { return "strings3" }
func (m *strings3) ProtoMessage()  {}
func (m *bytes1) Reset()           { *m = bytes1{} }
func (m *bytes1) String() string   { return "bytes1" }
func (m *bytes1) ProtoMessage()    {}
func (m *number1) Reset()          { *m = number1{} }
func (m *number1) String() string  { return "number1" }
func (m *number1) ProtoMessage()   {}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "go-client:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 6 || len(args) > 9 {
		return fmt.Errorf("wrong number of arguments: %d", len(args))
	}
	socket, service, method, answer, kind := args[0], args[1], args[2], args[3], args[5]
	count, err := strconv.Atoi(args[4])
	if err != nil {
		return err
	}
	request, err := request(kind, args[6:])
	if err != nil {
		return err
	}
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return err
	}
	client := ttrpc.NewClient(conn)
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()

	lines := make([]string, count)
	var all sync.WaitGroup
	for i := range lines {
		all.Add(1)
		go func(i int) {
			defer all.Done()
			lines[i] = call(ctx, client, service, method, answer, request)
		}(i)
	}
	all.Wait()
	for _, line := range lines {
		fmt.Println(line)
	}
	return nil
}

func request(kind string, fields []string) (proto.Message, error) {
	fields = append(fields, "", "", "")
	if kind == "string" {
		return &strings3{fields[0], fields[1], fields[2]}, nil
	}
	value, err := base64.StdEncoding.DecodeString(fields[0])
	return &bytes1{value}, err
}

func call(ctx context.Context, client *ttrpc.Client, service, method, answer string, request proto.Message) string {
	var err error
	var value string
	if answer == "number" {
		response := &number1{}
		err = client.Call(ctx, service, method, request, response)
		value = strconv.FormatInt(response.Value, 10)
	} else {
		response := &bytes1{}
		err = client.Call(ctx, service, method, request, response)
		value = string(response.Value)
	}
	if err != nil {
		return fmt.Sprintf("%s %s", status.Code(err), status.Convert(err).Message())
	}
	return "OK " + value
}
